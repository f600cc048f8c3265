"""httpx without the command line that it carries.

Where click and rich are installed, `import httpx` imports a command line of its own with them, and
takes half as long again. Without it httpx falls back to a message that nobody here asks for.
"""

import sys

_COMMAND_LINE = "httpx._main"

if "httpx" in sys.modules:
    import httpx as httpx
else:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # read as "cannot be imported"
    import httpx as httpx

    del sys.modules[_COMMAND_LINE]
