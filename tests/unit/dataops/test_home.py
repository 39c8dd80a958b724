from dataops.home import private_folder


def test_private_folder_is_created_with_user_only_mode_and_keeps_an_existing_mode(tmp_path):
    assert private_folder(tmp_path / "a" / "home").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)
    assert private_folder(tmp_path / "shared").stat().st_mode & 0o777 == 0o755
