"""Several servers behind one address: processes on this host, or hosts that already run."""
