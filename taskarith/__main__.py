"""``python -m taskarith``, and what ``accelerate launch -m taskarith`` starts."""

from taskarith.cli.main import main

if __name__ == "__main__":
    main()
