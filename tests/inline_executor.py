"""Run the tasks of a stage in the process of a test that is not about workers: a worker takes a second to start."""

import pickle
from concurrent.futures import Executor, Future

from tasks.engine.context import Context


class InlineExecutor(Executor):
    """Runs each task when it is submitted. An error of the task is kept in its future, as with workers.

    Args:
        before: called with each task before it runs. An error that it raises leaves `submit`.
    """

    def __init__(self, before=lambda task: None):
        self.before = before

    def submit(self, fn, /, *args, **kwargs):
        self.before(args[-1])
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class PicklingExecutor(InlineExecutor):
    """Pickles each task, as workers of other machines need it."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def submit(self, fn, /, *args, **kwargs):
        task = pickle.dumps((fn, args, kwargs))
        self.sizes.append(len(task))
        fn, args, kwargs = pickle.loads(task)
        return super().submit(fn, *args, **kwargs)


def inline_context(store, home, pool=None):
    """Return a context in which tasks run in this process, or in a pool."""
    return Context(store, home, workers=1, pool=pool or InlineExecutor())
