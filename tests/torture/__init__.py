"""What tries to break gonbuild: a module a way of breaking, each at any count; `python -m torture` runs them all."""
