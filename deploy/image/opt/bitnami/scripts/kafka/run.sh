#!/bin/bash
exec ottla start "$@"
