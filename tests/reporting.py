"""A page of a report as a browser reads it, and what must not become markup in it."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = "<script>alert(1)</script><img src=x onerror=y>&amp;{{ 7*7 }}"


class Page(HTMLParser):
    """The tags of a page, the names of their attributes, what they lead to, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.addresses, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.addresses += [value for name, value in attributes if name in {"src", "href", "action", "data"}]

    def handle_data(self, data):
        self.text += data
