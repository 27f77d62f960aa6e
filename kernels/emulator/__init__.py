"""The machine code that Triton makes for a card, run on this host: checked and counted."""
