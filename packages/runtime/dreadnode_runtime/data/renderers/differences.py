"""How a format differs from the tokenizer's chat template, in sentences."""

from dreadnode_runtime.data.renderers.probes import Shape, shapes
from dreadnode_runtime.data.renderers.turns import Format

NOTHING_TO_COMPARE = "the tokenizer has no chat template to compare it with"


def differences(made: Format, template: Format | None) -> tuple[str, ...]:
    """Return how MADE differs from TEMPLATE, one sentence for each way, naming its shapes."""
    if template is None:
        return (NOTHING_TO_COMPARE,)
    found: dict[str, list[str]] = {}
    for shape in shapes():
        if text := difference(made, template, shape):
            found.setdefault(text, []).append(shape.title)
    return tuple(f"{', '.join(titles)}: {text}" for text, titles in found.items())


def difference(made: Format, template: Format, shape: Shape) -> str | None:
    """Return where MADE leaves TEMPLATE in a conversation of SHAPE; None where they agree."""
    try:
        theirs = template.writer.write(shape.chat, prompt=shape.prompt)
    except Exception as error:
        return f"the chat template refuses it ({str(error)[:80]})"
    try:
        ours = made.writer.write(shape.chat, prompt=shape.prompt)
    except Exception as error:
        return f"the renderer refuses it ({str(error)[:80]})"
    if not shape.prompt:
        # A renderer may write the end of the last turn, which templates leave to the next one.
        ours, theirs = ours.rstrip("\n"), theirs.rstrip("\n")
        if ours.removeprefix(theirs) in made.stops:
            return None
    if ours == theirs:
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    return f"writes `{_near(ours, at)}` where the chat template writes `{_near(theirs, at)}`"


def _near(text: str, at: int) -> str:
    return repr(text[max(0, at - 8) : at + 16])[1:-1] or "nothing"
