# SPDX-License-Identifier: MPL-2.0
# Go and make are all that must be there; the targets install what else they need from Debian's or Ubuntu's packages.

SHELL := /bin/bash
GO ?= go
BIN := .build
export CGO_ENABLED := 0

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: build
build: ## build .build/hostagent
	$(GO) build -trimpath -o $(BIN)/hostagent ./cmd/hostagent

.PHONY: manual
manual: ## manual pages and shell completions, .build/manual; dated by SOURCE_DATE_EPOCH or the last commit
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} \
		$(GO) run -tags manual ./cmd/hostagent packaging/hostagent.hcl $(BIN)/manual

.PHONY: packages
packages: manual ## .build/packages/*.deb and *.rpm, for amd64 and arm64
	@rm -rf $(BIN)/packages
	@./packaging/build.sh

.PHONY: check-packages
check-packages: packages ## the packages, looked at by lintian, and built twice to the same bytes
	./test/packages.sh

.PHONY: tools
tools: # what the tests and the demo need of the system, installed where it is missing
	@./test/tools.sh

.PHONY: consul
consul: # a real Consul for tests and demo: CONSUL_BIN, one on PATH, or built from its Go module
	@$(GO) run ./test/cmd/consul

.PHONY: demo
demo: tools consul ## a host with three services and a real Consul; KEEP=1 keeps it running
	@mkdir -p $(BIN)
	@$(GO) build -o $(BIN)/demo ./test/cmd/demo
	@$(BIN)/demo

.PHONY: test
test: tools consul ## every test, those on a real kernel and a real Consul too
	$(GO) vet ./...
	./test/run.sh

.PHONY: race
race: ## tests of the packages with goroutines, under the race detector
	@./test/tools.sh gcc
	CGO_ENABLED=1 $(GO) test -race -run 'Watch|Fleet|KV' ./cmd/hostagent
	CGO_ENABLED=1 $(GO) test -race ./hostagent ./hostagent/consul ./hostagent/settings ./hostagent/status ./sockets

.PHONY: neighbours
neighbours: tools consul ## tests beside real ufw, firewalld, nft and Docker, in a root file system of their own; needs root
	./test/neighbours.sh

.PHONY: test-system
test-system: tools consul ## units and packages on booted Debian machines with systemd; needs root
	./test/system.sh

.PHONY: test-browser
test-browser: tools consul ## what operators see in the Consul UI, with a real browser; needs chromium or google-chrome
	./test/browser.sh

.PHONY: screens
screens: tools consul ## the README's pictures of the Consul UI, into packaging/ui
	HOSTAGENT_SCREENS=$(CURDIR)/packaging/ui ./test/browser.sh -run TestOperatorsSeeResults

.PHONY: test-alerts
test-alerts: tools consul ## alert rules and dashboard, with Prometheus' own promtool and beside a hostagent that runs
	./test/alerts.sh

.PHONY: lint
lint: ## golangci-lint, with the walls between packages
	$(GO) tool -modfile=.ci/golangci-lint/go.mod golangci-lint run ./...
	$(GO) tool -modfile=.ci/golangci-lint/go.mod golangci-lint run --build-tags manual ./cmd/hostagent

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (default 20s) each
	./test/fuzz.sh $(or $(FUZZTIME),20s)

.PHONY: bench
bench: tools consul ## measured figures, beside peers in the same run
	./test/bench.sh

.PHONY: bench-scan
bench-scan: tools ## hostagent scan beside ss, lsof, netstat and gopsutil, with 50,000 connections; needs root
	@./test/bench-scan.sh

.PHONY: bench-consul
bench-consul: tools consul ## polls, idle hosts, raft writes and openings with a real Consul agent of up to 4,000 services
	@./test/bench-consul.sh $(BENCH_CONSUL)

.PHONY: bench-system
bench-system: tools consul ## the installed service on a booted machine: exposure, sizes, start, memory and CPU; needs root
	@./test/bench-system.sh

.PHONY: test-fleet
test-fleet: tools consul ## the simulation of make sim-fleet with five hosts; the first run builds Consul's packages
	cd test/fleet && CONSUL_BIN=$$(cd ../.. && $(GO) run ./test/cmd/consul -print) $(GO) test -count 1 -timeout 20m .

.PHONY: sim-fleet
sim-fleet: tools consul ## hostagents of N hosts (default 1000) beside one real Consul server: writes, CPU, memory, hostagent fleet
	@N=$(or $(N),1000) ./test/sim-fleet.sh $(SIM_FLEET)

.PHONY: clean
clean: ## remove what the other targets built here
	rm -rf $(BIN)
