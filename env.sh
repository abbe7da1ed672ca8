export ANSIBLE_COLLECTIONS_PATH=/root/.cache/podnet-datapath/trees/25229636ee7f
export ANSIBLE_CONFIG=/tmp/h/runtimes/repo/ansible.cfg
export ANSIBLE_HOME=/root/.cache/podnet-datapath/trees/25229636ee7f/ansible-home
export PATH=/root/.cache/podnet-datapath/venv-b25b710f3dd4/bin:/usr/local/go/bin:/root/go/bin:/root/.cargo/bin:/root/.cargo/bin:/root/.pyenv/plugins/pyenv-virtualenv/shims:/root/.pyenv/shims:/root/.pyenv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PODNET_CACHE=/root/.cache/podnet-datapath
export PYTHONPATH=/root/.cache/podnet-datapath/trees/25229636ee7f
