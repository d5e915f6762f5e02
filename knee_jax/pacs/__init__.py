"""Results that an image archive (PACS) takes, and a node that receives films and answers with them.

`structured_report.py` and `capture.py` make the DICOM objects, `results.py` writes those of a film;
`spool.py` holds the films and answers of `knee-jax listen` on disk, `answering.py` works it off,
and `node.py` speaks with peers. The extra `pacs` brings highdicom and pynetdicom.
"""
