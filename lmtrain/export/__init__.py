"""Checkpoints to folders that Hugging Face transformers loads, and back.

`targets` says where a stack can go, `links` how tensors are renamed and rewritten, `reading` what a
``config.json`` means, `export` and `importing` walk those tables in the two directions, `verify`
proves a folder before it gets its name. What is shipped inside a folder, and never imported here,
lies in ``outside/``.
"""
