import pytest

from plugins.demo.build import build_demo_web

LIMIT = 120


@pytest.fixture(scope="package")
def web(tmp_path_factory):
    return build_demo_web(tmp_path_factory.mktemp("demo") / "web", limit=LIMIT, workers=1)


@pytest.fixture(scope="session")
def tree():
    def contents(directory):
        return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}

    return contents
