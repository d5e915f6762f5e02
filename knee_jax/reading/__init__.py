"""Blind reading of unlabelled knees by people, and how they agree.

`study.py` is the file that holds knees, orders and readings; `agreement.py` compares what was read;
`page.py` shows it; `app.py` is the page that readers read at.
"""
