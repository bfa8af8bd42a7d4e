#compdef spotkeep
# spotkeep lists the completions. If it lists none, zsh offers files.
_spotkeep() {
    local line program=${~words[1]}
    local -a found
    for line in "${(@f)$("$program" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line//:/\\:}/$'\t'/:}")
    done
    if (( $#found )); then
        _describe -V spotkeep found
    else
        _files
    fi
}
if [[ $funcstack[1] == _spotkeep ]]; then
    _spotkeep "$@"
else
    compdef _spotkeep spotkeep
fi
