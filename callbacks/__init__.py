"""Watching a run: evaluation by acting, selection of the best checkpoint, throughput, result rows, tables, figures."""
