# Entry points for contributors. `make help` lists the targets; each one installs what it needs.
# Requires git, make and python3 (3.11 to 3.13) on Debian 12 or 13, as root or with sudo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Build results are outside the checkout, named after a hash of their inputs.
export PODNET_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/podnet-datapath
PYTHON ?= python3
VENV := $(PODNET_CACHE)/venv-$(shell { cat requirements-dev.txt; $(PYTHON) -V; } | sha256sum | cut -c1-12)
# Ansible finds a collection only below a directory ansible_collections, so TREE has a link to this checkout.
TREE := $(PODNET_CACHE)/trees/$(shell pwd -P | sha256sum | cut -c1-12)
OLD_PYROUTE2 := $(PODNET_CACHE)/pyroute2-0.7.2
VERSION := $(shell sed -n 's/^version: //p' galaxy.yml)

export ANSIBLE_COLLECTIONS_PATH := $(TREE)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# A collection in the user's Ansible home would take precedence over TREE.
export ANSIBLE_HOME := $(TREE)/ansible-home
export PATH := $(VENV)/bin:$(PATH)
export PYTHONPATH := $(TREE)

LAB ?= lab
KERNEL ?= 6.1
MINUTES ?= 10
HOSTS ?= 1000
SEED ?=
COUNT ?= 1000000
SWAPS ?= 10000
FAULTS ?= 1
DURATION ?= 600
UPGRADE ?=
# kube, test-kubernetes: release of Kubernetes, CNI, and name of the cluster.
KUBERNETES ?= 1.36.3
CNI ?= podnet
# test-kubernetes: mode of kube-proxy, nftables or iptables
PROXY ?= nftables
KUBE ?= kube
SUITE ?= conformance
# test-kube-nodes: drivers of the Pods. netkit was added in 6.7.
DRIVERS ?= meta$(if $(filter-out 6.1,$(KERNEL)), netkit)
# test-one: T is a folder, a file or a test ID, K an expression of pytest -k.
T ?= tests/unit
K ?=
# test-conformance-nodes: a regular expression of specs
FOCUS ?=
# Commands read these from the environment, since they may contain quotes.
export T K FOCUS
FAST := lint test-unit test-bpf test-cni test-rollout sanity
LAB_INVENTORY := $(PODNET_CACHE)/labs/$(LAB)/inventory.yml
# Programs of tests/ and bench/ import lablib.
RUN := PYTHONPATH=$(TREE):$(CURDIR)/roles/lab_node/files python3 -m
BENCH := $(RUN) bench
PLAYBOOK := ansible-playbook -i $(LAB_INVENTORY) -i inventories/lab

# Targets that need root (network namespaces, taps, image roots): make runs itself again through sudo.
AS_ROOT := lab lab-site lab-benchmark lab-down kube kube-down test test-fast test-bpf test-netns test-cni test-rollout \
	test-critest test-kubernetes test-kube-cluster test-kube-api test-agent-faults test-chaos test-cilium test-kube-nodes test-conformance test-conformance-nodes test-datapath test-driver test-driver-nodes test-debug-kernel test-nodes test-operations test-faults \
	test-swaps fuzz-bpf coverage-bpf verified-bpf bench-icount bench-datapath bench-services bench-masquerade bench-cni bench-kubernetes bench-kube-proxy bench-agent-scale bench-scale bench-tuning packages

# Only tests/unit needs no root.
ifneq ($(filter-out tests/unit%,$(T)),)
AS_ROOT += test-one
endif

ifneq ($(shell id -u),0)
$(AS_ROOT):
	@sudo --preserve-env=CNI,COUNT,DRIVERS,DURATION,FAULTS,FOCUS,HOSTS,K,KERNEL,KUBE,KUBERNETES,LAB,MINUTES,PODNET_DEBIAN_MIRROR,PROXY,SEED,SUITE,SWAPS,T env PODNET_CACHE="$(PODNET_CACHE)" $(MAKE) --no-print-directory $@
else

define say
@printf '\n== %s\n' "$(1)"
endef

lab: lab-up lab-site lab-benchmark  ## Two nodes, site.yml, the benchmark and its report
	@printf '\n'; cat reports/$(LAB)/report.md; printf '\nReport: %s\n' "file://$(CURDIR)/reports/$(LAB)/report.html"

lab-up: tools  ## Boot two nodes (KERNEL=6.1, 6.12 or 7.3)
	$(call say,Lab: two nodes on kernel $(KERNEL); the first time 5 min for image and boot, later 1 min)
	ansible-playbook playbooks/lab_up.yml -e lab_node_name=$(LAB) -e lab_node_kernel=$(KERNEL)

lab-site: tools  ## Run site.yml on the lab
	$(call say,site.yml: defaults to meta Pods; the first time 5 min, on converged nodes 2 min)
	$(PLAYBOOK) site.yml

lab-benchmark: tools  ## Run the benchmark on the lab
	$(call say,Benchmark: the rungs of the ladder in one run, about 3 min)
	$(PLAYBOOK) playbooks/benchmark.yml -e benchmark_name=$(LAB)

lab-down: tools  ## Remove the lab's nodes
	ansible-playbook playbooks/lab_down.yml -e lab_node_name=$(LAB)

kube: tools  ## Start Kubernetes on this computer (KUBERNETES=1.36.3, CNI=podnet, KUBE=kube); built once, 12 min
	$(call say,Kubernetes $(KUBERNETES) with the CNI $(CNI); the first time 12 min, later 30 s)
	$(RUN) tests.kubernetes.cluster up --name $(KUBE) --version $(KUBERNETES) --cni $(CNI)

kube-down: tools  ## Remove the cluster (KUBE=kube)
	$(RUN) tests.kubernetes.cluster down --name $(KUBE)

# Long ones first. Emulated nodes wait for their controller, and the others for the kernel, most of the time.
test: tools  ## Fast tests, a Kubernetes, driver on one kernel, two nodes
	@$(MAKE) --no-print-directory -j3 -Otarget test-driver test-nodes test-netns test-kube-cluster $(FAST) test-kube-api
	$(call say,Every test passed; removing the node of the driver's tests)
	python3 roles/lab_node/files/lab.py down --name driver-$(subst .,-,$(KERNEL)) >/dev/null

test-fast: tools  ## All tests that need no node
	@$(MAKE) --no-print-directory -j2 -Otarget test-netns $(FAST)

test-bpf: tools  ## BPF programs, by BPF_PROG_TEST_RUN on the running kernel
	$(call say,Programs on the running kernel)
	pytest -q tests/bpf

coverage-bpf: tools  ## Branch coverage of the BPF programs by test-bpf
	$(call say,Instrumented programs on the running kernel)
	PODNET_COVERAGE=$(CURDIR)/reports/coverage pytest -q tests/bpf
	@cat reports/coverage/report.txt; printf '\nLine by line: %s\n' reports/coverage/datapath.txt

verified-bpf: tools  ## Instructions that the verifier processes, on 6.1, 6.12, 7.3 and the running kernel
	$(call say,Verified instructions)
	$(BENCH).verifier.bench

fuzz-bpf: tools  ## COUNT=1000000 mutated packets per BPF program, against a model of the policy; 10 min
	$(call say,Fuzzing the programs with $(COUNT) packets each)
	PODNET_FUZZ=$(COUNT) pytest -q tests/bpf/test_bpf_fuzz.py

test-netns: tools  ## Modules, in network namespaces of the running kernel
	$(call say,Modules in network namespaces)
	pytest -q tests/netns
	$(call say,Netlink with the pyroute2 of Debian 12)
	@[ -d $(OLD_PYROUTE2) ] || pip install -q --no-deps --target $(OLD_PYROUTE2) pyroute2==0.7.2
	PYTHONPATH=$(OLD_PYROUTE2):$(PYTHONPATH) pytest -q tests/netns/test_netlink.py tests/netns/test_default_routes.py \
		tests/netns/test_nic_queues.py tests/unit/kernel tests/unit/rollback

test-cni: tools  ## The CNI plugin, against servers that fail in all ways, with ASan and UBSan
	$(call say,CNI plugin)
	pytest -q tests/cni

test-critest: tools  ## critest's network specs and ctr on containerd 1.7 and 2, podman 4 with CNI; 3 min, built once in 10 min
	$(call say,Container runtimes without Kubernetes; the first time 15 min, later 3 min)
	pytest -q tests/runtimes

test-rollout: tools  ## Batches and gates of a rollout, by runs of ansible-playbook
	$(call say,Rollouts over several hosts)
	pytest -q tests/rollout

test-kubernetes: tools  ## A CNI on two nodes (KUBERNETES=1.36.3, CNI=podnet, PROXY=nftables or iptables), draining, Cilium's API; 8 min, built once in 12 min
	$(call say,Kubernetes $(KUBERNETES) with the CNI $(CNI); the first time 20 min, later 8 min)
	@$(MAKE) --no-print-directory -j2 -Otarget test-kube-cluster test-kube-api

test-kube-cluster: tools  ## Of test-kubernetes, the tests with two nodes
	PODNET_KUBERNETES=$(KUBERNETES) PODNET_CNI=$(CNI) PODNET_PROXY=$(PROXY) pytest -q tests/kubernetes --ignore=tests/kubernetes/api

test-kube-api: tools  ## Of test-kubernetes, the tests with an API server and without nodes
	pytest -q tests/kubernetes/api

test-agent-faults: tools  ## The agent and its API server fail; the agent is killed at each step of a change, 5 min
	$(call say,Faults of the agent and of the API server)
	PODNET_STEPS=all PODNET_SEED=$(SEED) pytest -q tests/kubernetes/api/test_agent_faults.py

test-chaos: tools  ## 100 Pods started and killed 16 at a time, 20 times, while parts of the nodes fail (SEED=)
	$(call say,Chaos on Kubernetes $(KUBERNETES), about 40 min)
	PODNET_KUBERNETES=$(KUBERNETES) PODNET_SEED=$(SEED) PODNET_PODS=100 PODNET_COUNT=20 pytest -q -s tests/kubernetes/test_chaos.py

# Nodes in guests have netkit. Failed migrations are tested on machines, where an agent starts 20 times faster.
CILIUM_GUESTS := $(filter-out file,$(origin KERNEL))

test-cilium: tools  ## Migrations of a real Cilium, failed ones too, and Helm values of random clusters (SEED=), 45 min; KERNEL=6.12: to netkit on two QEMU nodes, 50 min; built once in 25 min
	$(call say,Cilium on Kubernetes $(KUBERNETES); the first time 25 min more)
	PODNET_NODES=$(if $(CILIUM_GUESTS),$(KERNEL)) PODNET_KUBERNETES=$(KUBERNETES) PODNET_CNI=cilium PODNET_SEED=$(SEED) pytest -q -x \
		$(if $(CILIUM_GUESTS),-k 'test_migration or second_run or test_rollback',tests/kubernetes/test_cluster.py) \
		tests/kubernetes/test_cilium.py \
		$(if $(CILIUM_GUESTS),,tests/kubernetes/test_cilium_values.py tests/kubernetes/test_cilium_finish.py)
	$(if $(CILIUM_GUESTS),python3 roles/lab_node/files/lab.py down --name cilium-$(subst .,-,$(KERNEL)) >/dev/null)

test-kube-nodes: tools  ## Kubernetes on two QEMU nodes (KERNEL=6.1 or 6.12, DRIVERS="meta netkit"); 15 min for each driver
	$(call say,Kubernetes $(KUBERNETES) on nodes of kernel $(KERNEL); 15 min for each driver: $(DRIVERS))
	for driver in $(DRIVERS); do \
		PODNET_NODES=$(KERNEL) PODNET_DRIVER=$$driver PODNET_KUBERNETES=$(KUBERNETES) pytest -q -x tests/kubernetes/test_cluster.py \
			tests/kubernetes/test_datapath.py tests/kubernetes/test_agent.py; \
	done
	python3 roles/lab_node/files/lab.py down --name nodes-$(subst .,-,$(KERNEL)) >/dev/null

test-conformance: tools  ## Third-party suites (SUITE=conformance, policies, services or cyclonus; KUBERNETES=1.36.3, CNI=podnet), 10 to 140 min; built once in 20 min
	$(call say,Suite $(SUITE) with the CNI $(CNI) on Kubernetes $(KUBERNETES); the first time 20 min more)
	$(RUN) tests.kubernetes.conformance --suite $(SUITE) --version $(KUBERNETES) --cni $(CNI) reports/$(SUITE)-$(KUBERNETES)-$(CNI).txt

test-conformance-nodes: tools  ## The same on two QEMU nodes without kube-proxy (KERNEL=6.1 or 6.12, DRIVERS="meta netkit", or meta,netkit: one for each node; FOCUS= an expression of specs)
	$(call say,Suite $(SUITE) on nodes of kernel $(KERNEL): $(DRIVERS))
	for driver in $(DRIVERS); do \
		$(RUN) tests.kubernetes.conformance --suite $(SUITE) --version $(KUBERNETES) --cni podnet-services --kernel $(KERNEL) \
			--driver $$driver --focus "$$FOCUS" reports/$(SUITE)-$(KUBERNETES)-$$driver-$(KERNEL).txt || exit; \
	done
	python3 roles/lab_node/files/lab.py down --name suites-$(subst .,-,$(KERNEL)) >/dev/null

test-swaps: tools  ## Replace BPF programs under traffic, SWAPS=10000 times
	$(call say,$(SWAPS) replacements under traffic)
	PODNET_SWAPS=$(SWAPS) pytest -q tests/netns/test_replacement.py

test-driver: tools  ## Driver and modules, on a QEMU node (KERNEL=6.1, 6.12 or 7.3)
	$(call say,Driver in a node on kernel $(KERNEL); the first time 7 min, later 4 min)
	PODNET_KERNEL=$(KERNEL) pytest -q tests/driver

test-datapath: tools  ## All policy and service checks on meta and netkit (KERNEL=6.1, 6.12 or 7.3)
	$(call say,Policy and services on the devices of kernel $(KERNEL), 3 min per driver)
	PODNET_CASES=all PODNET_KERNEL=$(KERNEL) pytest -q tests/driver/test_datapath.py

test-debug-kernel: tools  ## Driver under KASAN, lockdep and kmemleak (KERNEL=6.1, 6.12 or 7.3; MINUTES=10; SEED=)
	$(call say,Driver in a debug kernel of $(KERNEL); build 10 min once; checks 5 min; then $(MINUTES) min of random operations)
	PODNET_KERNEL=$(KERNEL) PODNET_MINUTES=$(MINUTES) PODNET_SEED=$(SEED) pytest -q -s tests/debug_kernel

test-driver-nodes: tools  ## One driver build per kernel: twenty hosts, and site.yml on two nodes
	$(call say,Driver on two nodes of kernel $(KERNEL), about 12 min)
	PODNET_KERNEL=$(KERNEL) pytest -q tests/driver_nodes
	python3 roles/lab_node/files/lab.py down --name driver-nodes >/dev/null

test-nodes: tools  ## site.yml on two QEMU nodes: check mode, converge, idempotence, verify
	$(call say,Molecule: site.yml on two nodes, about 12 min)
	molecule test

test-operations: tools  ## The commands of docs/operations.md on two nodes of kernel 6.1, and AWX's jobs, 46 min
	$(call say,The commands of docs/operations.md on two nodes)
	pytest -q -x tests/operations
	python3 roles/lab_node/files/lab.py down --name operations >/dev/null

test-faults: tools  ## Interrupted changes on a node: cable, power, process, controller (FAULTS=1, SEED=)
	$(call say,Faults on a node on kernel $(KERNEL); $(FAULTS) random faults of each kind)
	PODNET_KERNEL=$(KERNEL) PODNET_COUNT=$(FAULTS) PODNET_SEED=$(SEED) pytest -q -s tests/faults
	PODNET_COUNT=$(FAULTS) PODNET_SEED=$(SEED) pytest -q -s tests/netns/test_killed.py

bench-icount: tools  ## Instructions per packet of each rung (KERNEL=6.12 has netkit), 5 min
	$(call say,Instruction count on kernel $(KERNEL))
	$(BENCH).icount.bench --kernel $(KERNEL)

bench-datapath: tools  ## Instructions of the BPF programs by feature and scale, and rate limits (KERNEL=6.12)
	$(call say,Costs and rates of the programs on kernel $(KERNEL))
	$(BENCH).icount.datapath --kernel $(KERNEL)

bench-services: tools  ## Instructions per transaction by services and under policies (KERNEL=6.12), 10 min
	$(call say,Cost of services and policies on kernel $(KERNEL))
	$(BENCH).icount.services --kernel $(KERNEL)

bench-masquerade: tools  ## Connections of a masqueraded Pod to one destination, beside netfilter, 1 min
	$(call say,Masquerading by the programs and by netfilter)
	$(BENCH).masquerade.bench

bench-cni: tools  ## ADD and DEL of the CNI plugin, beside the reference plugins, 1 min
	$(call say,The CNI plugin beside ptp and bridge)
	unshare --mount sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/lock && $(BENCH).cni.bench'

bench-kubernetes: tools  ## 100 Pods started at once by kubelet, beside Pods that need no CNI plugin, 5 min
	$(call say,Pods started at once on Kubernetes $(KUBERNETES))
	$(BENCH).kubernetes.pods

bench-kube-proxy: tools  ## Connections by a Service beside kube-proxy, as shares of direct ones, 20 min
	$(call say,Services beside kube-proxy in its modes nftables and iptables)
	$(BENCH).kubernetes.services

bench-agent-scale: tools  ## The agent and an API server with 10,000 Pods, 500 policies, 1,000 services; 100 changes a second for DURATION=600 s; 20 min
	$(call say,A simulated cluster with a real API server; the first time 12 min more)
	$(BENCH).agent_scale.bench --seconds $(DURATION)

bench-scale: tools  ## Controller time of a rollout over HOSTS=1000 simulated hosts, an hour
	$(call say,site.yml in check mode over $(HOSTS) simulated hosts)
	$(BENCH).rollout_scale.bench --hosts $(HOSTS)

bench-tuning: tools  ## node_tuning against loops over ansible.posix.sysctl and ethtool, on one node, 4 min
	$(call say,Tuning a converged node: the role against loops)
	$(BENCH).tuning.bench

packages:
	@tests/packages.sh

endif

# One target for each check: .pre-commit-config.yaml runs the same targets. `make -j2 lint` works too.
LINT := lint-ruff lint-imports lint-mypy lint-yamllint lint-reuse lint-changelog lint-workflows lint-shellcheck \
	lint-checkpatch lint-ansible

lint: $(LINT)  ## Style, types, imports, licences, changelog, workflows

lint-ruff: tools
	ruff check --no-cache .
	ruff format --no-cache --check .

lint-imports: tools
	python3 tests/package_api.py

lint-mypy: tools
	MYPYPATH=$(TREE) mypy -p ansible_collections.podnet.datapath.plugins
	MYPYPATH=roles/lab_node/files mypy roles/lab_node/files
	MYPYPATH=$(TREE):.:roles/lab_node/files mypy --config-file tests/mypy.ini -p tests -p bench

lint-yamllint: tools
	yamllint --strict .

lint-reuse: tools
	reuse lint --lines

lint-changelog: tools
	antsibull-changelog lint

lint-workflows: tools
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

lint-shellcheck: tools
	git grep -lIE '^#!.*(/|env )(ba)?sh( |$$)' | xargs shellcheck

lint-checkpatch: tools
	tests/checkpatch.sh

lint-ansible: tools
	ansible-lint --offline -q

ifeq ($(and $(filter-out 0,$(shell id -u)),$(filter test-one,$(AS_ROOT))),)
test-one: tools  ## One test, file or folder: T=tests/unit/pods/test_model.py::test_name; K= selects by name (pytest -k)
	PODNET_KERNEL=$(KERNEL) PODNET_KUBERNETES=$(KUBERNETES) PODNET_CNI=$(CNI) pytest -q "$$T" $(if $(K),-k "$$K")
endif

test-unit: tools  ## Pure functions, without a kernel
	$(call say,Unit tests)
	pytest -q tests/unit

test-options: tools  ## Options as text and as JSON, on ansible-core 2.18, 2.19 and 2.21, 3 min
	$(call say,Options on all supported series of ansible-core)
	PODNET_ANSIBLE_CORES="2.18 2.19 2.21" pytest -q tests/rollout/test_options.py

env:  ## Shell commands that set the environment of the tests: eval "$(make -s env)"
	@$(MAKE) --no-print-directory tools >&2
	@printf 'export %s=%q\n' ANSIBLE_COLLECTIONS_PATH "$(ANSIBLE_COLLECTIONS_PATH)" ANSIBLE_CONFIG "$(ANSIBLE_CONFIG)" \
		ANSIBLE_HOME "$(ANSIBLE_HOME)" PATH "$(PATH)" PODNET_CACHE "$(PODNET_CACHE)" PYTHONPATH "$(PYTHONPATH)"

sanity: tools  ## ansible-test sanity, without a container
	$(call say,ansible-test sanity)
	tests/sanity.sh

.PHONY: tools
tools: packages $(VENV)/.complete $(TREE)/ansible_collections/podnet/datapath

# flock: two checkouts may run this at the same time.
$(VENV)/.complete: | packages
	$(call say,Python tools in $(VENV); about 1 min)
	@mkdir -p $(@D); exec 9>$(VENV).lock; flock 9; [[ ! -e $@ ]] || exit 0; \
	$(PYTHON) -m venv --clear $(VENV); \
	$(VENV)/bin/pip install --disable-pip-version-check -q --require-hashes -r requirements-dev.txt; \
	touch $@

$(TREE)/ansible_collections/podnet/datapath:
	@mkdir -p $(@D) && ln -sfn "$(CURDIR)" $@

lock: tools  ## Resolve requirements-dev.in into requirements-dev.txt; UPGRADE=1 takes the newest versions
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --annotation-style line \
		--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) --output-file requirements-dev.txt requirements-dev.in

archive: export ANSIBLE_COLLECTIONS_PATH := $(TREE)/installed
archive: export PYTHONPATH :=
archive: tools  ## Build the collection's archive and check an installation of it
	$(call say,Archive of the collection)
	rm -rf $(TREE)/installed
	ansible-galaxy collection build --force
	ansible-galaxy collection install --offline -p $(TREE)/installed podnet-datapath-$(VERSION).tar.gz
	ansible-galaxy collection verify --offline podnet.datapath
	cd $(TREE)/installed && ansible-playbook --syntax-check podnet.datapath.{site,preflight,audit,benchmark,cilium,revert}

hooks: tools  ## Run the checks of make lint on every git commit
	pre-commit install

clean: lab-down  ## Remove the lab and everything built from the cache
	rm -rf --one-file-system $(PODNET_CACHE)

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 24

.PHONY: $(AS_ROOT) $(LINT) lab-up test-one test-unit test-options env lint lock archive hooks sanity clean help
