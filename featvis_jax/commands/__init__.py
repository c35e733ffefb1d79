"""The commands of ``featvis``, which `experiments` starts by name too: only these read flags."""
