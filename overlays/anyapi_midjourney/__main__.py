"""Where the command starts: `anyapi-midjourney`, or `python -m anyapi_midjourney`."""

import sys


def main() -> None:
    """Runs the command, or says which packages it needs."""
    try:
        from .cli import run  # noqa: PLC0415  (an optional extra)

        run()
    except ImportError as error:
        advice = "" if "pip install" in str(error) else ": pip install 'anyapi-midjourney[cli]'"
        print(f"{error}{advice}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
