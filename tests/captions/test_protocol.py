"Addresses of servers that cannot be used, and which server is on this machine; the rest is in the chapter."

import pytest

from radgen.captions.backends import backend
from radgen.captions.protocol import is_local
from radgen.core.errors import ConfigError


@pytest.mark.parametrize(
    "where, what",
    [
        ("http://h/v1", "does not say which model"),
        ("http://h/v1# ", "does not say which model"),
        ("h:1/v1#m", "is no address"),
        ("ftp://h/v1#m", "is no address"),
        ("http://#m", "is no address"),
        ("http://[::1/v1#m", "is no address"),
        ("http://h:99999/v1#m", "is no address"),
        ("http://a b/v1#m", "is no address"),
        ("http://h/v1?k=1#m", "is no address"),
        ("#m", "is no address"),
    ],
)
def test_parse_server_unusable_address_gives_an_example(where, what):
    with pytest.raises(ConfigError, match=f"{what}.*openai:http://127.0.0.1:11434/v1#llama3"):
        backend(f"openai:{where}")


def test_parse_server_password_is_not_shown():
    with pytest.raises(ConfigError, match="the address of h holds a password") as error:
        backend("openai:http://user:geheim@h/v1#m")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/v1", "http://[::1]:1/v1", "http://127.8.0.1/v1", "http://a.localhost"]
)
def test_is_local_loopback(url):
    assert is_local(url)


@pytest.mark.parametrize("url", ["http://llm.example.org/v1", "http://10.0.0.1/v1", "http://notlocalhost/v1"])
def test_is_local_other_machines(url):
    assert not is_local(url)
