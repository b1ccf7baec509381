"""Building blocks of networks: attention, norms, embeddings, linear maps, rematerialisation.

Every parameter carries logical axis names (`nn.with_logical_partitioning`); a table in
`genjax.parallel` maps them to mesh axes. Each block is imported from its own file.
"""
