"""The reference streaming server: prompts in, tokens out, acknowledged and stoppable."""
