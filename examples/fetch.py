"""A plain, blocking function. Over many addresses: rimstone map examples/fetch.py:fetch URLS."""

from urllib.request import urlopen


def fetch(url):
    with urlopen(url, timeout=60) as response:
        return response.read().decode()
