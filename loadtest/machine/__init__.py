"""What the kit asks of this machine and starts on it: processes, cores, threads, memory."""
