#!/bin/bash
exec /usr/bin/entrypoint "$@"
