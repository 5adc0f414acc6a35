"""Who runs the shards of a stage, and the bookkeeping around them."""
