"""Several hosts on one machine: network namespaces, each with memory files and temporary files that no other host sees."""
