from __future__ import annotations

import pytest

from indexing.sources import addresses


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/home/me/a?sig=1.jpg", "/home/me/a?sig=1.jpg"),
        ("s3://bucket/a b/c#1.jpg", "s3://bucket/a b/c#1.jpg"),
        ("https://host/@user/a.jpg", "https://host/@user/a.jpg"),
        ("https://user:pass@host:8443/a.jpg", "https://host:8443/a.jpg"),
        ("https://token@host/a.jpg#access_token=1", "https://host/a.jpg"),
        ("https://host/a.jpg?id=7&size=L", "https://host/a.jpg?id=7&size=L"),
        ("https://host/a?id=7&X-Amz-Signature=abc&X-Amz-Credential=k&X-Amz-Expires=60", "https://host/a?id=7"),
        ("https://host/a?x-goog-signature=abc&X-Goog-Date=1", "https://host/a"),
        ("https://acc.blob.core/c/a.jpg?sv=2024&se=2030&sr=b&sp=r&st=1&sig=abc%3D", "https://acc.blob.core/c/a.jpg"),
        ("https://host/a?sr=1&st=2&se=3", "https://host/a?sr=1&st=2&se=3"),
        ("https://cdn/a?Expires=1&Signature=x&Key-Pair-Id=K", "https://cdn/a"),
        ("https://host/a?AWSAccessKeyId=AKIA&Signature=s&Expires=1", "https://host/a"),
        ("https://host/a?access_token=x&api-key=y&apikey=z&password=p&client_secret=s&v=1", "https://host/a?v=1"),
        ("https://host/a?%61ccess_token=x", "https://host/a"),
        ("https://host/a?author=me", "https://host/a?author=me"),
    ],
)
def test_secrets_of_addresses_are_left_out(address: str, shown: str):
    """Users, passwords, tokens and everything about a signature go; what names the picture stays."""
    assert addresses.redact(address) == shown


def test_addresses_in_texts_are_found():
    """Errors of libraries quote them."""
    text = 'Cannot connect to "https://u:p@host/x?token=1": refused (s3://k:s@bucket/y)'
    assert addresses.redact(text) == 'Cannot connect to "https://host/x": refused (s3://bucket/y)'


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.jpg", "b.jpg"),
        ("/a/b?c.jpg", "b?c.jpg"),
        ("https://host/a/b%20c.jpg?x=/y", "b c.jpg"),
        ("s3://bucket/a/b%20c.jpg", "b%20c.jpg"),
        ("https://host/shards/x.tar/0001.jpg", "0001.jpg"),
    ],
)
def test_the_name_of_a_file(path: str, name: str):
    """The last part of its path, which only the web encodes."""
    assert addresses.file_name(path) == name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x.tar", ["x.tar"]),
        ("x-{008..011}.tar", ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]),
        ("x-{8..10}.tar", ["x-8.tar", "x-9.tar", "x-10.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("{one}.tar", ["{one}.tar"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern: str, names: list[str]):
    """Ranges count with their zeros, alternatives are all taken."""
    assert list(addresses.expand_braces(pattern)) == names


def test_a_range_without_end_is_refused():
    """A typing error must not fill the memory."""
    with pytest.raises(ValueError, match="more than"):
        list(addresses.expand_braces("{0..9999999999}"))


@pytest.mark.parametrize(
    ("named", "home", "meant"),
    [
        ("a/b.jpg", "/lists/", "/lists/a/b.jpg"),
        ("../b.jpg", "/lists/", "/b.jpg"),
        ("/other/b.jpg", "/lists/", "/other/b.jpg"),
        ("file:///other/b%20c.jpg", "/lists/", "/other/b c.jpg"),
        ("https://host/b.jpg", "/lists/", "https://host/b.jpg"),
        ("a/b c.jpg", "s3://bucket/lists/", "s3://bucket/lists/a/b c.jpg"),
        ("a/b.jpg", "https://u:p@host/lists/", "https://u:p@host/lists/a/b.jpg"),
        ("s3://other/b.jpg", "https://host/lists/", "s3://other/b.jpg"),
    ],
)
def test_a_list_may_name(named: str, home: str, meant: str):
    """Files beside it, the web and stores; one on this machine any file of this machine too."""
    assert addresses.permitted(named, home) == meant


@pytest.mark.parametrize("home", ["https://host/lists/", "s3://bucket/lists/"])
@pytest.mark.parametrize(
    "named",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "../secret.jpg",
        "a/../../secret.jpg",
        "%2e%2e/secret.jpg",
        "..\\secret.jpg",
        "//other/b.jpg",
        "local:///etc/passwd",
        "ftp://host/b.jpg",
        "memory://x/b.jpg",
        "github://a:b@c/d",
        "javascript:alert(1)//x://y",
    ],
)
def test_a_list_from_elsewhere_may_not_name(named: str, home: str):
    """Files of this machine, what lies outside its own folder, and schemes that nobody asked for."""
    with pytest.raises(ValueError, match=r"may|fetched"):
        addresses.permitted(named, home)
