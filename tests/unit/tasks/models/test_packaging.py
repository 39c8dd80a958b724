from tasks.models.packaging import PYFUNC, collect_imports


def test_collect_imports_returns_the_modules_of_the_pyfunc_and_no_others():
    found = collect_imports(PYFUNC)
    assert {
        "training/__init__.py",
        "training/model/checkpoint.py",
        "training/evaluation/encode.py",
        "dataops/errors.py",
    } <= set(found.files)
    assert not {"training/train.py", "training/loop/optim.py", "dataops/store.py"} & set(found.files)
    assert {"torch", "safetensors", "tokenizers", "mlflow"} <= found.packages
    assert not {"prefect", "boto3", "img2dataset", "matplotlib"} & found.packages
