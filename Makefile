# Thin on purpose: what a target does is written in tools/check.py. Every target first sees to it that what it needs is
# installed (tools/bootstrap.py), which is quick when it is.

CHECK := sh tools/with-python.sh tools/check.py

.PHONY: help demo test lint format unit bench soak clean

help:   ## this list
	@$(CHECK) help
demo:   ## two hosts, one overlay network, names that answer, proven by ping
	@$(CHECK) demo
test:   ## everything that CI asks
	@$(CHECK) test
lint:   ## style, types and layers
	@$(CHECK) lint
format: ## let ruff format and mend the code
	@$(CHECK) format
unit:   ## the quick tests that need no privilege
	@$(CHECK) unit
bench:  ## measurements side by side
	@$(CHECK) bench
soak:   ## many more examples, until a failure or Ctrl-C
	@$(CHECK) soak
clean:  ## remove environments, caches and logs
	@$(CHECK) clean
