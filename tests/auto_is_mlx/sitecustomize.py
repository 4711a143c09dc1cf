"""What each Python that a test starts imports first, where LOST_TEST_AUTO=mlx: `--backend auto` as on Apple silicon."""

from lost.utils import machine

machine.on_apple_silicon = lambda: True
