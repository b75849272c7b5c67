"""The methods that turn injection gradients into updates: the rule and its rivals, all inside one optimizer."""
