"""Building blocks that model families share: attention, feed-forward, experts, recurrent mixers, vision."""
