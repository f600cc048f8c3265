"""Chat formats: how a conversation is written, encoded, and how a completion is read back.

`chat` is the form that every writer takes. `template` writes with a tokenizer's own chat template,
`cookbook` with a renderer of tinker-cookbook, and `corrected` holds the renderers that we correct.
`tokens` encodes what they write, and `formats` chooses the writer of a model.
"""
