"""Print a script that completes commands, and the configs of `--config=`, in a shell.

    source <(knee-jax completion bash)       # in ~/.bashrc
    source <(knee-jax completion zsh)        # in ~/.zshrc, after compinit
    knee-jax completion fish | source        # in ~/.config/fish/config.fish

The names come from `knee-jax list`, so that they are those of the installed version.
"""

from knee_jax.cli import COMMANDS, show

_BASH = """\
_knee_jax() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    case "$word" in
        --config=*:*)
            COMPREPLY=($(compgen -W "$(knee-jax list variants)" -- "${word#--config=}"))
            # Bash takes what stands before a colon for a word of its own.
            COMPREPLY=("${COMPREPLY[@]#*:}") ;;
        --config=*)
            COMPREPLY=($(compgen -W "$(knee-jax list configs)" -- "${word#--config=}")) ;;
        *)
            COMPREPLY=()
            if [ "$COMP_CWORD" -eq 1 ]; then
                COMPREPLY=($(compgen -W "COMMANDS" -- "$word"))
            fi ;;
    esac
}
complete -o default -F _knee_jax knee-jax
"""

_ZSH = """\
_knee_jax() {
    if [[ "$PREFIX" == --config=* ]]; then
        compset -P '--config='
        compadd -- ${(f)"$(knee-jax list configs)"} ${(f)"$(knee-jax list variants)"}
    elif (( CURRENT == 2 )); then
        compadd -- COMMANDS
    else
        _files
    fi
}
compdef _knee_jax knee-jax
"""

_FISH = """\
complete -c knee-jax -n __fish_use_subcommand -f -a "COMMANDS"
complete -c knee-jax -l config -x -a "(knee-jax list configs; knee-jax list variants)"
"""

CHOICES = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def define_flags() -> None:
    """Define no flag."""


def main(words: list[str]) -> None:
    """Print the script."""
    show(CHOICES[words[0]].strip().replace("COMMANDS", " ".join(COMMANDS)))
