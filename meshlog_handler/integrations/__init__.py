"""The engines that run many processes, each with an adapter of its own; imported only where it is used."""
