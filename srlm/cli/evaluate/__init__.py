"""Any models side by side: answers, head to heads, losses and benchmarks (`srlm evaluate`)."""
