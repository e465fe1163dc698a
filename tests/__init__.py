import pytest

# So that a check in what tests share says what it saw, as one in a test does.
pytest.register_assert_rewrite(f"{__name__}.harness")
