"""Receive films from an image archive (PACS), grade them, and send the results back.

    knee-jax listen --spool=DIR --send_to=PACS@10.0.0.5:104 [--title=KNEE_JAX] [--callers=PACS]

Films come by C-STORE. For each that shows a knee a structured report (TID 1500) and a picture of
each knee go to the peer, filed under the film's own patient and study. DIR holds what is received
and not yet sent, and nothing after that; a command that was stopped or killed goes on where it
was. The title that callers use and their own titles are all that DICOM checks: listen on localhost
or a network that you trust. Needs the extra `pacs`. For research only, not a medical device.
"""

import os
import time
from pathlib import Path

from absl import flags

from knee_jax.errors import UserError


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("spool", None, "Folder of what is not yet sent.", required=True)
    flags.DEFINE_string("send_to", None, "Peer for results, TITLE@HOST:PORT.", required=True)
    flags.DEFINE_string("title", "KNEE_JAX", "Application entity title of this node.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
    flags.DEFINE_integer("port", 11112, "Port to listen on.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_list("callers", [], "Titles of those who may send films; default: anybody.")
    flags.DEFINE_integer("most_mb", 200, "Size of a film that is received, MB.", lower_bound=1)
    flags.DEFINE_list("model", ["kl-kneekl224"], "Models, runs' folders or exported files.")
    flags.DEFINE_integer(
        "workers", min(4, os.cpu_count() or 1), "Processes that read films.", lower_bound=1
    )


def main(words: list[str]) -> None:
    """Receive, grade and send until stopped."""
    from knee_jax.files import locked
    from knee_jax.inference import grade, models
    from knee_jax.pacs import answering, node, results
    from knee_jax.pacs.spool import Spool

    options = flags.FLAGS
    results.require()
    title = node.title_of(options.title, "--title")
    callers = [node.title_of(each, "--callers") for each in options.callers]
    peer = node.peer_of(options.send_to, "--send_to")
    root = Path(options.spool).expanduser()
    if root.exists() and not root.is_dir():
        raise UserError(f"--spool={root}: is a file; name a folder")
    root.mkdir(parents=True, exist_ok=True)
    predictor = models.average([models.load(name) for name in options.model])
    reading = grade.reading_for(predictor, localise=True)
    with locked(root / ".lock") as free:
        if not free:
            raise UserError(f"--spool={root}: another process listens with it")
        spool = Spool(root)
        sender = answering.Sender(spool, title, peer)

        def receive(uid: str, content: bytes) -> None:
            key, new = spool.receive(uid, content)
            answering.log("received", film=key, new=new)

        address = (options.host, options.port)
        server = node.listen(
            title,
            address,
            callers,
            options.most_mb * 2**20,
            receive,
            lambda: answering.log("turned_away", why="the titles of caller or called"),
        )
        try:
            host, port = server.server_address[:2]
            answering.log("listening", title=title, host=host, port=port)
            while True:
                taken = answering.answer_films(spool, predictor, reading, options.workers)
                sender.send(time.monotonic())
                if not taken:
                    time.sleep(0.2)
        finally:
            server.shutdown()
