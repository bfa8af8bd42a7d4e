# What may come next, spotkeep says itself. Where it says nothing, bash offers files.
_spotkeep() {
    local line program=${COMP_WORDS[0]/#\~\//$HOME/}
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("$program" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _spotkeep spotkeep
