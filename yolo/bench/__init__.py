"""A cluster on one machine: hosts of namespaces, slow links between them, and what a training costs there."""
