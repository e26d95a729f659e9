"""The networks and their joint loss, in plain torch: knows no DeepSpeed and no data set."""
