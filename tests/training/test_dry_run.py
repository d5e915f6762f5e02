"""What a config asks of devices, told without them."""

import dataclasses
import importlib
import json
import subprocess

import jax
import jax.numpy as jnp
import pytest

from knee_jax.config import load
from knee_jax.errors import UserError
from knee_jax.models.layers import tracing_for
from knee_jax.training import dry_run, hlo, topologies
from tests.commands import REPOSITORY, command, run_here

PIXELS = {
    "kpn": (350, 350),
    "oarsi": (350, 350),
    "siamese_gap": (224, 224),
    "mri_progression": (176, 176, 80),
}
"""Main config of each system → shape of a prepared knee."""

# As XLA prints programs; S(1) is memory on the chip.
PROGRAM = """HloModule jit_f

%region {
  %inner = f32[1000]{0} add(%a, %b)
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0:T(8,128)} parameter(0)
  %fusion.1 = (bf16[8,4]{1,0:T(8,128)(2,1)}, f32[4]{0:T(128)S(1)}) fusion(%p), kind=kLoop
  %part = bf16[8,4]{1,0:T(8,128)(2,1)} get-tuple-element(%fusion.1), index=0
  %slice-start = ((bf16[8,4]{1,0}), bf16[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%part)
  %slice-done = bf16[2,4]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %all-reduce-start = f32[4]{0} all-reduce-start(f32[4]{0:S(1)} %slice-done), replica_groups={}
  %all-reduce-done = f32[4]{0:S(1)} all-reduce-done(%all-reduce-start)
  %all-gather.3 = f32[64,4]{1,0} all-gather(%p), dimensions={0}
  %all-reduce = (f32[3]{0}, bf16[2,5]{1,0}) all-reduce(%a, %b), to_apply=%region
  ROOT %out = f32[8,4]{1,0} copy(%p)
}
"""


def test_collectives_are_counted_with_their_bytes():
    assert hlo.collectives(PROGRAM) == {
        "all-reduce": hlo.Collective(2, 16 + 12 + 20),
        "all-gather": hlo.Collective(1, 1024),
    }


def test_traffic_is_what_the_entry_reads_and_writes_in_memory():
    whole = {
        "fusion reads": 128,
        "fusion writes": 64,
        "slice reads": 16,
        "all-gather": 128 + 1024,
        "all-reduce": 12 + 20,
        "copy": 128 + 128,
    }
    assert hlo.traffic(PROGRAM) == sum(whole.values())


def test_the_traffic_of_a_program_is_its_arrays():
    x = jnp.ones((64, 32))
    compiled = jax.jit(lambda x: jnp.sin(x) + 1).lower(x).compile()
    assert hlo.traffic(compiled.as_text()) == 2 * 64 * 32 * 4
    assert hlo.collectives(compiled.as_text()) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v99:2x2", "cpu, cuda, or one of v4, v5e"),
        ("cuda:x", "a number of devices follows the colon"),
        ("cpu:0", "a number of devices follows the colon"),
        ("cpu:4096", "host_platform_device_count=4096"),
    ],
)
def test_an_unknown_topology_is_named(name, message):
    with pytest.raises(UserError, match=message):
        topologies.of(name)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "libtpu", None)
    with pytest.raises(UserError, match=r"needs the package libtpu.*pip install 'knee_jax\[tpu\]'"):
        topologies.of("v5e:2x4")


def test_the_slowest_resource_bounds():
    measured = dry_run.Measured(200.0, 50, 1, 1, {"all-reduce": hlo.Collective(3, 80)})
    chip = topologies.Chip(flops=100.0, bandwidth=10.0, memory=5.0, links=20.0)
    seconds = measured.seconds(chip, 8)
    assert seconds == {"arithmetic": 2.0, "memory": 5.0, "links": 7.0}
    assert measured.memory == 2
    assert dry_run.Measured(200.0).seconds(chip, 8) == {"arithmetic": 2.0}


def planned(name, of):
    config = importlib.import_module(f"knee_jax.configs.{name}").get_config("")
    config.batch_size = config.evaluation.batch_size = 32 * of.number
    with tracing_for(of.platform):
        return dry_run.plan(load.parse(config), PIXELS[name], of)


@pytest.mark.slow
@pytest.mark.parametrize("platforms", [("cpu",), ("cuda", "tpu")], ids=lambda each: each[0])
@pytest.mark.parametrize("name", PIXELS)
def test_every_system_lowers_for_every_platform_in_its_forms(name, platforms):
    of = topologies.Topology(platforms[0], "", tuple(jax.devices()[:1]), 1)
    run, on_cpu = planned(name, of), platforms == ("cpu",)
    assert run.model.dtype == (jnp.float32 if on_cpu else jnp.bfloat16)
    for lower in (dry_run.lower_training, dry_run.lower_inference):
        text = lower(run, PIXELS[name], *platforms).as_text()
        assert "stablehlo.convolution" in text
        # A CPU runs grouped convolutions slowly, and gets dense ones.
        grouped = "feature_group_count = 32" in text
        assert grouped == (name == "oarsi" and not on_cpu)


@pytest.mark.slow
def test_the_command_tells_what_a_config_needs(tmp_path):
    flags = ("--config=kl:demo", "--noinference", f"--out={tmp_path}/found.json")
    done = run_here("knee_jax", "dry-run", *flags, "--topology=cuda:4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "for 4 x h200 cuda, in bfloat16" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    # Parameters, and two moments of each.
    assert 12 * found["parameters"] < found["state_bytes"] < 13 * found["parameters"]
    assert found["training"]["seconds"]["arithmetic"] > 0
    # Four cards that share the state, none of which is there.
    run_here("knee_jax", "dry-run", *flags, "--topology=cuda:4", "--config.fsdp=4")
    shared = json.loads((tmp_path / "found.json").read_text())
    assert 0.25 < shared["state_bytes"] / found["state_bytes"] < 0.3
    done = run_here("knee_jax", "dry-run", *flags, "--topology=cuda:4", "--config.fsdp=3")
    assert (done.returncode, "does not divide the 4 devices" in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    line, environment = command("tests.training.on_eight_devices", folder, devices=8)
    done = subprocess.run(line, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_step_reduces_gradients_and_statistics_and_a_bad_sharding_is_found(on_eight):
    assert on_eight["right"]["kinds"] == ["all-reduce"]
    assert on_eight["right"]["unexpected"] == []
    assert on_eight["wrong"]["unexpected"]
    assert on_eight["fsdp"]["unexpected"] == []
    assert "all-gather" in on_eight["fsdp"]["kinds"]


@pytest.mark.slow
def test_devices_share_a_state_with_the_same_losses(on_eight):
    assert on_eight["alone"][0] == pytest.approx(on_eight["shared"][0], rel=1e-5)
    assert on_eight["alone"] == pytest.approx(on_eight["shared"], rel=1e-3)
    assert on_eight["restored"]
    # Small arrays stay whole.
    assert on_eight["bytes shared"] < 0.3 * on_eight["bytes alone"]
    saved = on_eight["bytes alone"] - on_eight["bytes shared"]
    assert on_eight["right"]["arguments"] - on_eight["fsdp"]["arguments"] >= 0.9 * saved


@pytest.mark.slow
def test_the_large_network_is_shared_by_eight_devices():
    """A device keeps little more than an eighth of the parameters and of both their moments."""
    of = topologies.Topology("cpu", "", tuple(jax.devices()[:1]), 1)
    run = planned("mri_progression", of)
    parameters = jax.tree.leaves(jax.eval_shape(run.random_state).params)
    number = sum(leaf.size for leaf in parameters)
    assert number > 130e6
    assert 12 * number < dry_run.bytes_of_state(run, 8) < 12 * number * 1.02
    shared = dataclasses.replace(run, config=dataclasses.replace(run.config, fsdp=8))
    assert 12 * number / 8 < dry_run.bytes_of_state(shared, 8) < 12 * number / 8 * 1.02


@pytest.mark.long
@pytest.mark.parametrize("name", PIXELS)
def test_every_system_compiles_for_eight_chips_and_fits(name):
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    of = topologies.of("v5e:2x4")
    run = planned(name, of)
    measured = dry_run.measure(dry_run.lower_training(run, PIXELS[name], "tpu"), of)
    assert set(measured.collectives) == {"all-reduce"}
    assert dry_run.unexpected(run, measured.collectives) == []
    assert measured.memory < topologies.CHIPS["v5e"].memory
