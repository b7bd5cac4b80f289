import inspect

from rlhf import errors


def test_every_error_is_an_rlhf_error_and_stands_in_the_tree() -> None:
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(cls, errors.RlhfError)
        assert name in errors.__doc__
