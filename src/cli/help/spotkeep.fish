# spotkeep lists the completions. If it lists none, fish offers files.
function __spotkeep_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (command $words[1] complete -- $words[2..] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c spotkeep -f -k -a '(__spotkeep_complete)'
