"""Print `docs/errors.md`, made from the tree: `python -m argosy_common.errors > docs/errors.md`."""

import sys

from argosy_common.errors import REGISTRY

HEAD = """# Errors

Made by `python -m argosy_common.errors` from `common/argosy_common/errors/`; a test compares the two. Codes and exit
codes are never reused. *Whose move* tells who can mend it: the operator, the other end (peer), the network, or we.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(
        f"\n## `{error.code}`\n\nExit code {error.exit_code} · whose move: {error.fault.value}\n\n"
        f"{error.template}\n\n*What to do:* {error.remedy}\n"
        for error in sorted(REGISTRY.values(), key=lambda e: e.exit_code)
    )


if __name__ == "__main__":
    sys.stdout.write(page())
