"""The shapes on the wires, one file a language. Nothing here knows anything of ours."""
