"""Which sources hold their images, in a config of one source or of several."""

import pytest

from dataops.errors import ConfigError
from flows.config import load_config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.warc.gz").write_bytes(b"")
    return tmp_path


def load(folder, sources, download=""):
    (folder / "run.toml").write_text(f'name = "test"\n{sources}\n[download]\n{download}\n')
    return load_config(folder / "run.toml", [f"store.uri={folder / 'store'}"], until="pack")


ONE = '[source]\nkind = "warc"\npaths = ["*.warc.gz"]'
CONTACT = 'contact = "mailto:us@example.org"'


def test_archived_images_need_no_contact_and_have_a_key_of_their_own(folder):
    with pytest.raises(ConfigError, match=r"download\.contact"):
        load(folder, ONE)
    with pytest.raises(ConfigError) as caught:  # with another error, the contact is not missed either
        load(folder, f'{ONE}\nimages = "archive"', "image_size = 0")
    assert "download.image_size" in str(caught.value)
    assert "contact" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"source\.images: 'disk'; allowed: 'web' or 'archive'"):
        load(folder, f'{ONE}\nimages = "disk"')
    archived, requested = load(folder, f'{ONE}\nimages = "archive"'), load(folder, f'{ONE}\nimages = "web"', CONTACT)
    keys = [config.stage_config("download").key_config() for config in (archived, requested)]
    assert keys[1] == requested.download.key_config()
    assert keys[0] != keys[1]
    assert archived.source.key_config() == requested.source.key_config()
    assert archived.stage_config("download").inputs()
    assert not requested.stage_config("download").inputs()
