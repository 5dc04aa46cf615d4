"""What img2dataset has downloaded, in any of its four layouts, as records of a TFDS data set.

    shards       finds the files of each shard, and shards that are missing
    rows         the rows of one shard: pairs that can be used, and why the others cannot
    part         one shard as a part of the data set, written by a worker process
    preparation  all shards: continues where it was stopped, drops duplicates, counts everything

Layouts: github.com/rom1504/img2dataset, README, "Output format"; checked against what version 1.47 writes.
"""
