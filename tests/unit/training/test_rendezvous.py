import pytest
from pydantic import ValidationError

from training.config import TrainConfig
from training.rendezvous import is_loopback

OTHERS = """
    0.0.0.0 :: 10.0.0.7 192.168.1.2 169.254.1.1 8.8.8.8 fe80::1 127.1 0x7f000001 2130706433 0177.0.0.1
    127.0.0.1.example.org localhost.example.org 127-0-0-1.example.org node-7
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "localhost"])
def test_is_loopback_returns_true_for_addresses_of_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", OTHERS.split())
def test_is_loopback_returns_false_for_all_other_hosts_and_spellings(host):
    assert not is_loopback(host)


def test_train_config_refuses_a_rendezvous_on_a_network_unless_allowed():
    for host in ("10.0.0.7", "node-7", "0.0.0.0", "127.1", "8.8.8.8"):
        with pytest.raises(ValidationError, match=r"set train\.allow_network = true"):
            TrainConfig(nnodes="2", rdzv_endpoint=f"{host}:29400")
        assert TrainConfig(nnodes="2", rdzv_endpoint=f"{host}:29400", allow_network=True).allow_network
    for host in ("127.0.0.1", "127.0.0.9", "localhost"):
        assert TrainConfig(nnodes="2:4", rdzv_endpoint=f"{host}:29400")
