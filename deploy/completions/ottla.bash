# Completion of bash for `ottla` and the tools under Kafka's names: what their --help names, so that it cannot become
# older than the binary. `make install` puts it where bash-completion finds it.

_ottla() {
  COMPREPLY=()
  local current=${COMP_WORDS[COMP_CWORD]} words help
  words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  # Options and their values belong to no subcommand.
  if [ "$(basename -- "${words[0]}")" = ottla ]; then
    local commands=("${words[0]}") word
    for word in "${words[@]:1}"; do
      case $word in -*) break ;; *) commands+=("$word") ;; esac
    done
    words=("${commands[@]}")
  else
    words=("${words[0]}")
  fi
  help=$("${words[@]}" --help 2>/dev/null) || return
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(grep -oE -- '--[a-z][a-z.-]*[a-z]' <<< "$help" | sort -u)" -- "$current")
  else
    # The list of commands, in the form of clap.
    mapfile -t COMPREPLY < <(
      compgen -W "$(sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\).*/\1/p' <<< "$help")" -- "$current"
    )
  fi
}

complete -o default -F _ottla ottla
for _ottla_tool in $(compgen -c kafka- | sed 's/\.sh$//' | sort -u); do
  # Tools of Apache Kafka have their own programs.
  if [ "$(basename -- "$(readlink -f -- "$(type -P "$_ottla_tool")")")" = ottla ]; then
    complete -o default -F _ottla "$_ottla_tool"
  fi
done
unset _ottla_tool
