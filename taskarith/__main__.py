"""The program: ``taskarith``, ``python -m taskarith``, and what ``accelerate launch -m taskarith`` starts."""

from taskarith.cli.process import end_on_interrupt


def main() -> None:
    """Run the command line; Ctrl-C ends it in silence while it is still imported."""
    end_on_interrupt()
    from taskarith.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
