"""Where networks compute, and how exactly; what is fetched where there may be no network."""

import socket
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from calotype.training import network
from calotype.training.devices import Computation, computing, device_named, settled
from calotype.training.network import ask_hub, patience

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "a b"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match=f"--device is {name}, which is not here: choose from cpu"):
        Computation(device=name)


def test_devices_have_names(monkeypatch):
    assert device_named("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("auto") == device_named("cuda") == torch.device("cuda")
    assert device_named("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "bf16"), ((7, 5), "fp32")])
def test_auto_is_what_the_device_multiplies(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    assert settled("auto", torch.device("cuda")) == chosen
    assert settled("fp16", torch.device("cuda")) == "fp16"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_networks_compute_in_a_precision_while_it_is_entered(precision):
    torch.manual_seed(0)
    net, x = nn.Linear(64, 8), torch.randn(4, 64)
    exact = net(x)
    with computing(precision, CPU, net):
        rounded = net(x)
        assert torch.equal(x @ net.weight.T + net.bias, exact), "what is around them is float32"
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    with computing("fp32", CPU, net):
        assert torch.equal(net(x), exact)


def test_networks_are_as_before_whatever_happens():
    net, x = nn.Linear(64, 8), torch.randn(4, 64)
    exact = net(x)
    with pytest.raises(ZeroDivisionError), computing("bf16", CPU, net):
        raise ZeroDivisionError
    assert torch.equal(net(x), exact) and "forward" not in net.__dict__
    own = net.forward
    net.forward = lambda x: own(2 * x)  # as a library may put its own in place
    doubled = net(x)
    with computing("bf16", CPU, net):
        torch.testing.assert_close(net(x), doubled, atol=0.1, rtol=0)
    assert torch.equal(net(x), doubled)


@pytest.mark.parametrize(
    ("answer", "offline"),
    [(OSError("no such name"), True), (TimeoutError(), True), (None, False)],
)
def test_a_hub_that_is_silent_is_asked_once(monkeypatch, answer, offline):
    """Bug: a mistyped folder was answered after a minute of attempts, where there is no network."""
    asked = []

    def head(address, timeout):
        asked.append(timeout)
        if answer:
            raise answer

    client = SimpleNamespace(head=head)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: client)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ask_hub()
    assert constants.HF_HUB_OFFLINE == offline
    ask_hub()
    assert asked == ([5] if offline else [5, 5])


def test_a_hub_that_was_silent_is_asked_again_after_a_minute(monkeypatch):
    """Bug: after one silence a notebook was without the Hub for good."""
    answers = iter([OSError("no such name"), None])

    def head(address, timeout):
        if answer := next(answers):
            raise answer

    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "LET_BE", 0.0)
    ask_hub()
    assert constants.HF_HUB_OFFLINE
    ask_hub()
    assert not constants.HF_HUB_OFFLINE


def test_who_wants_no_hub_is_not_asked_for_it(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(network, "LET_BE", 0.0)
    monkeypatch.setattr("huggingface_hub.utils.get_session", None)  # asking it would fail
    ask_hub()
    assert constants.HF_HUB_OFFLINE


def test_patience_ends():
    before = socket.getdefaulttimeout()
    with pytest.raises(ZeroDivisionError), patience(3.0):
        assert socket.getdefaulttimeout() == 3
        raise ZeroDivisionError
    assert socket.getdefaulttimeout() == before
