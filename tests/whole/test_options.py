import pytest

from flows.app import run_command


@pytest.mark.parametrize(
    "line",
    [
        *(f"metrics --port {port}" for port in (-1, 0, 99_999_999)),
        *(f"browse --port {port}" for port in (-1, 65_536)),
        *(f"node --store s --port {port} -- true" for port in (0, 65_536)),
        *(f"node --store s --patience {seconds} -- true" for seconds in (0, "nan")),
        "trace example.org --limit -5",
        "quarantine --dataset all --limit 0",
        "models --limit 0",
        "try filter --examples -1",
        "takedown list --days -1",
        "datasets fetch suite.toml --max-bytes -1",
    ],
)
def test_numbers_of_options_that_are_out_of_range_are_refused(line, capsys):
    assert run_command(line.split()) == 2
    assert 'Invalid value "' in capsys.readouterr().err
