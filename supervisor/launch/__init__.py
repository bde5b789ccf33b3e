"""torchrun's command line -> plan: what ``rankd launch`` knows that ``rankd run`` does not."""
